-- How does each calibration dataset do, by pruner, pattern, sparsity and size?
SELECT
    model, recipe, pattern, sparsity, size, dataset, count(*) AS draws,
    avg(similarity) AS similarity,
    avg(mean_accuracy) AS mean_accuracy,
    stddev_samp(mean_accuracy) AS sd
FROM results
WHERE dataset IS NOT NULL AND status = 'done'
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, size, mean_accuracy DESC
