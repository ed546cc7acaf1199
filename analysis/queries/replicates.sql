-- How far are repetitions of the very same cell apart: the noise floor?
SELECT model, recipe, pattern, sparsity, dataset, size, seqlen, sampler, seed, score,
    count(*) AS repetitions,
    avg(value) AS mean, stddev_samp(value) AS sd, max(value) - min(value) AS spread
FROM results JOIN scores USING (cell)
WHERE value IS NOT NULL
GROUP BY ALL
HAVING count(*) > 1
ORDER BY model, recipe, pattern, sparsity, dataset, size, seqlen, sampler, seed, score
