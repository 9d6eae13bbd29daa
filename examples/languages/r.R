weights <- data.frame(group = c("a", "a", "b"), weight = c(1, 2, 6))
means <- aggregate(weight ~ group, weights, mean)
cat(means$weight, fill = TRUE)
nrow(means)
