"""Shares of a whole."""

import matplotlib.pyplot as plt

plt.pie([90, 10], labels=["stay", "go"], startangle=90)
plt.title("Votes")
plt.show()
