"""Bars and a line in one place: one chart for each."""

import matplotlib.pyplot as plt

figure, axes = plt.subplots()
causes = ["a", "b", "c"]
axes.bar(causes, [5, 3, 2], label="count")
axes.twinx().plot(causes, [50, 80, 100], "ro-", label="%")
plt.show()
