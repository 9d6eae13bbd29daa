"""Two waves, with units on both axes."""

import matplotlib.pyplot as plt
import numpy as np

t = np.linspace(0, 2, 9)
plt.figure(figsize=(5, 3))
plt.plot(t, np.sin(np.pi * t), label="sin")
plt.plot(t, np.cos(np.pi * t), label="cos")
plt.title("Two waves")
plt.xlabel("Time (s)")
plt.ylabel("Voltage [mV]")
plt.legend()
plt.show()
