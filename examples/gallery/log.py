"""Growth on a logarithmic scale."""

import matplotlib.pyplot as plt

plt.plot([0, 1, 2, 3], [1, 10, 100, 1000], "o-", label="cells")
plt.yscale("log")
plt.xlabel("Time (h)")
plt.title("Growth")
plt.show()
