from collections import Counter

counts = Counter("mississippi")
print(*counts.values())
len(counts)
