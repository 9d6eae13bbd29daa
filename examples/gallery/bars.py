"""Grouped bars."""

import matplotlib.pyplot as plt
import pandas as pd

sales = pd.DataFrame({"2023": [3, 5, 2], "2024": [4, 4, 6]}, index=["north", "south", "west"])
sales.plot.bar(title="Sales", ylabel="Sales (EUR)", rot=0)
plt.show()
