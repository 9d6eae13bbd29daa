"""Two groups of points, told apart by seaborn's colours."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

flowers = pd.DataFrame({"length": [1, 2, 5, 6], "width": [2, 3, 1, 2], "kind": ["small", "small", "large", "large"]})
sns.scatterplot(flowers, x="length", y="width", hue="kind")
plt.xlabel("Length (cm)")
plt.show()
