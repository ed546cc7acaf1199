-- What does a larger calibration set change, draw by draw?
WITH cells AS (
    SELECT model, recipe, pattern, sparsity, dataset, seed, seqlen, sampler, size, score,
        lower_is_better, value
    FROM results JOIN scores USING (cell)
    WHERE size IS NOT NULL AND replicate = 0 AND value IS NOT NULL
), steps AS (
    SELECT *, lead(size) OVER w AS next_size, lead(value) OVER w - value AS change
    FROM cells
    WINDOW w AS (
        PARTITION BY model, recipe, pattern, sparsity, dataset, seed, seqlen, sampler, score
        ORDER BY size
    )
)
SELECT model, recipe, pattern, sparsity, dataset, score, size, next_size, count(*) AS draws,
    avg(value) AS mean, avg(change) AS change,
    stddev_samp(change) / sqrt(count(change)) AS change_se
FROM steps
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, score, dataset, size
