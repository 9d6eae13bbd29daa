"""Several axes in one figure."""

import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2)
figure.suptitle("Panels")
left.plot([1, 2, 4])
left.set_title("line")
right.scatter([1, 2], [2, 1])
right.set_title("points")
plt.show()
