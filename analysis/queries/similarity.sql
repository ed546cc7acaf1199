-- Do similarity and quality of a dataset go with its score, each given the other?
-- Correlations over datasets; with p by permutation: python -m analysis.compare DB similarity
WITH properties AS (
    SELECT r.dataset, avg(s.value) FILTER (measure = 'jaccard') AS similarity,
        coalesce(avg(r.quality), avg(s.value) FILTER (measure = 'quality')) AS quality
    FROM results r JOIN similarity s USING (cell) GROUP BY r.dataset
), means AS (
    SELECT model, recipe, pattern, sparsity, size, score, dataset, similarity, quality,
        avg(if(lower_is_better, -value, value)) AS score_mean
    FROM (SELECT * EXCLUDE (similarity, quality) FROM results) JOIN scores USING (cell)
    JOIN properties USING (dataset)
    WHERE replicate = 0 AND value IS NOT NULL AND dataset NOT IN ('random_tokens', 'ellipses')
    GROUP BY ALL
), pairwise AS (
    SELECT model, recipe, pattern, sparsity, size, score, count(*) AS datasets,
        corr(similarity, score_mean) AS s, corr(quality, score_mean) AS q,
        corr(similarity, quality) AS sq,
        string_agg(format('{}: {:.3g}, {:.4g}', dataset, similarity, abs(score_mean)), '; '
            ORDER BY similarity) AS points
    FROM means GROUP BY ALL HAVING count(*) > 2
)
SELECT model, recipe, pattern, sparsity, size, score, datasets,
    s AS similarity_with_score, q AS quality_with_score, sq AS similarity_with_quality,
    if(datasets > 3, (s - q * sq) / nullif(sqrt(greatest((1 - q * q) * (1 - sq * sq), 0)), 0), NULL)
        AS similarity_given_quality,
    if(datasets > 3, (q - s * sq) / nullif(sqrt(greatest((1 - s * s) * (1 - sq * sq), 0)), 0), NULL)
        AS quality_given_similarity,
    points
FROM pairwise
ORDER BY model, recipe, pattern, sparsity, size, score
