-- Do similarity and quality of a dataset go with its score, each given the other?
-- Correlations over datasets; with p by permutation: python -m analysis.compare DB similarity
WITH means AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, samplers, score, dataset,
        avg(similarity) AS similarity, avg(quality) AS quality,
        avg(if(lower_is_better, -value, value)) AS score_mean
    FROM draws
    WHERE dataset NOT IN ('random_tokens', 'ellipses')
    GROUP BY ALL
), pairwise AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, samplers AS sampler, score,
        count(*) AS datasets,
        corr(similarity, score_mean) AS s, corr(quality, score_mean) AS q,
        corr(similarity, quality) AS sq,
        string_agg(format('{}: {:.3g}, {:.4g}', dataset, similarity, abs(score_mean)), '; '
            ORDER BY similarity) AS points
    FROM means
    WHERE similarity IS NOT NULL OR quality IS NOT NULL
    GROUP BY ALL
    HAVING count(*) > 2
)
SELECT model, recipe, pattern, sparsity, size, seqlen, sampler, score, datasets,
    s AS similarity_with_score, q AS quality_with_score, sq AS similarity_with_quality,
    if(datasets > 3, (s - q * sq) / nullif(sqrt(greatest((1 - q * q) * (1 - sq * sq), 0)), 0), NULL)
        AS similarity_given_quality,
    if(datasets > 3, (q - s * sq) / nullif(sqrt(greatest((1 - s * s) * (1 - sq * sq), 0)), 0), NULL)
        AS quality_given_similarity,
    points
FROM pairwise
ORDER BY model, recipe, pattern, sparsity, size, seqlen, sampler, score
