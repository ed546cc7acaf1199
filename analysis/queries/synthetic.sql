-- How does text that the model wrote compare with each real dataset?
WITH means AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, samplers, score, lower_is_better,
        dataset, generated, avg(value) AS mean, var_samp(value) AS variance, count(*) AS draws
    FROM draws
    GROUP BY ALL
)
SELECT model, recipe, pattern, sparsity, size, seqlen, samplers AS sampler, score,
    s.dataset AS synthetic, r.dataset AS real,
    s.mean AS synthetic_mean, r.mean AS real_mean, s.mean - r.mean AS difference,
    sqrt(s.variance / s.draws + r.variance / r.draws) AS difference_se,
    least(s.draws, r.draws) AS draws,
    if(s.lower_is_better, s.mean < r.mean, s.mean > r.mean) AS synthetic_is_better
FROM means s JOIN means r
    USING (model, recipe, pattern, sparsity, size, seqlen, samplers, score)
WHERE s.generated AND NOT r.generated
ORDER BY model, recipe, pattern, sparsity, size, seqlen, samplers, score, s.dataset, r.dataset
