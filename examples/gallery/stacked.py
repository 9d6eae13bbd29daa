"""Stacked bars that lie: the names are on x in the chart all the same."""

import matplotlib.pyplot as plt

teams = ["red", "blue"]
plt.barh(teams, [3, 1], label="won")
plt.barh(teams, [1, 2], left=[3, 1], label="lost")
plt.xlabel("Games")
plt.legend()
plt.show()
