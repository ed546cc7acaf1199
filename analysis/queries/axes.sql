-- How does each value of each axis do, over everything else that it was run with?
WITH cells AS (
    SELECT s.score, s.value, r.* FROM results r JOIN scores s USING (cell)
    WHERE r.pruner <> 'dense' AND r.replicate = 0 AND s.value IS NOT NULL
), axes AS (
    SELECT score, value, axis, level FROM cells, LATERAL (VALUES
        ('model', model), ('dataset', dataset), ('pruner', recipe), ('pattern', pattern),
        ('sparsity', sparsity::VARCHAR), ('size', size::VARCHAR), ('seqlen', seqlen::VARCHAR),
        ('sampler', sampler), ('seed', seed::VARCHAR)
    ) AS t(axis, level)
    WHERE level IS NOT NULL
)
SELECT axis, level, score, count(*) AS cells, avg(value) AS mean, stddev_samp(value) AS sd,
    min(value) AS lowest, max(value) AS highest
FROM axes
GROUP BY ALL
ORDER BY score, axis, any_value(TRY_CAST(level AS DOUBLE)), level
