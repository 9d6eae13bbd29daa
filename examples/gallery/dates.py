"""A series over time, plotted by pandas."""

import matplotlib.pyplot as plt
import pandas as pd

visitors = pd.Series([120, 180, 150, 90], pd.date_range("2024-03-01", periods=4, name="Day"))
visitors.plot(title="Visitors", ylabel="People")
plt.show()
