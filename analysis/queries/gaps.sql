-- How far apart are the best and the worst calibration dataset, by sparsity and pattern?
WITH means AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, samplers, score, lower_is_better,
        dataset, avg(value) AS mean
    FROM draws
    GROUP BY ALL
)
SELECT
    model, recipe, pattern, sparsity, size, seqlen, samplers AS sampler, score,
    count(*) AS datasets,
    if(any_value(lower_is_better), 1, 100) * (max(mean) - min(mean)) AS gap,
    if(any_value(lower_is_better), 'perplexity', 'points') AS unit,
    if(any_value(lower_is_better), arg_min(dataset, mean), arg_max(dataset, mean)) AS best,
    if(any_value(lower_is_better), arg_max(dataset, mean), arg_min(dataset, mean)) AS worst
FROM means
GROUP BY ALL
HAVING count(*) > 1
ORDER BY model, recipe, pattern, sparsity, size, seqlen, samplers, score
