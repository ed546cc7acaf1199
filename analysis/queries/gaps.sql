-- How far apart are the best and the worst calibration dataset, by sparsity and pattern?
WITH means AS (
    SELECT model, recipe, pattern, sparsity, size, dataset, avg(mean_accuracy) AS mean_accuracy
    FROM results
    WHERE dataset IS NOT NULL AND status = 'done'
    GROUP BY ALL
)
SELECT
    model, recipe, pattern, sparsity, size,
    100 * (max(mean_accuracy) - min(mean_accuracy)) AS gap_points,
    arg_max(dataset, mean_accuracy) AS best,
    arg_min(dataset, mean_accuracy) AS worst
FROM means
GROUP BY ALL
HAVING count(*) > 1
ORDER BY model, recipe, pattern, sparsity, size
