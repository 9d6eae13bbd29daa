"""What has no form as a chart is unknown, and still a picture."""

import matplotlib.pyplot as plt

plt.imshow([[1, 2], [3, 4]])
plt.title("Heat")
plt.show()
