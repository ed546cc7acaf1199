-- What does a larger calibration set change, draw by draw?
WITH steps AS (
    SELECT *, lead(size) OVER w AS next_size, lead(value) OVER w - value AS change
    FROM draws
    WINDOW w AS (
        PARTITION BY model, recipe, pattern, sparsity, dataset, seed, seqlen, sampler, score
        ORDER BY size
    )
)
SELECT model, recipe, pattern, sparsity, seqlen, sampler, dataset, score, size, next_size,
    count(*) AS draws,
    avg(value) AS mean, avg(change) AS change,
    stddev_samp(change) / sqrt(count(change)) AS change_se
FROM steps
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, seqlen, sampler, score, dataset, size
