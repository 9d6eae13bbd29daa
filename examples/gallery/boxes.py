"""Quartiles, whiskers and an outlier."""

import matplotlib.pyplot as plt

plt.boxplot([[1, 2, 3, 4, 9], [2, 4, 4, 5]], tick_labels=["a", "b"])
plt.ylabel("Score")
plt.show()
