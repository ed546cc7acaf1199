-- How does each calibration dataset do, by pruner, pattern, sparsity, size, seqlen and sampler?
SELECT
    model, recipe, pattern, sparsity, size, seqlen, sampler, dataset, score, count(*) AS draws,
    avg(similarity) AS similarity,
    avg(value) AS mean,
    stddev_samp(value) AS sd
FROM results JOIN scores USING (cell)
WHERE dataset IS NOT NULL AND replicate = 0 AND value IS NOT NULL
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, size, seqlen, score,
    if(any_value(lower_is_better), avg(value), -avg(value)), sampler
