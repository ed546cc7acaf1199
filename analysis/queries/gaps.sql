-- How far apart are the best and the worst calibration dataset, by sparsity and pattern?
WITH means AS (
    SELECT model, recipe, pattern, sparsity, size, score, lower_is_better, dataset,
        avg(value) AS mean
    FROM results JOIN scores USING (cell)
    WHERE dataset IS NOT NULL AND replicate = 0 AND value IS NOT NULL
    GROUP BY ALL
)
SELECT
    model, recipe, pattern, sparsity, size, score, count(*) AS datasets,
    if(any_value(lower_is_better), 1, 100) * (max(mean) - min(mean)) AS gap,
    if(any_value(lower_is_better), 'perplexity', 'points') AS unit,
    if(any_value(lower_is_better), arg_min(dataset, mean), arg_max(dataset, mean)) AS best,
    if(any_value(lower_is_better), arg_max(dataset, mean), arg_min(dataset, mean)) AS worst
FROM means
GROUP BY ALL
HAVING count(*) > 1
ORDER BY model, recipe, pattern, sparsity, size, score
