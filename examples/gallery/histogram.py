"""A histogram: a bar is named by the middle of its bin."""

import matplotlib.pyplot as plt

plt.hist([1, 1, 2, 3, 3, 3, 5], bins=[0, 2, 4, 6])
plt.xlabel("Size [mm]")
plt.show()
