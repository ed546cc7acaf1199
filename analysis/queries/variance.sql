-- Which matters more, dataset or pruner: what share of the sum of squares does each explain?
-- Of what was run, without error; as components with intervals: python -m analysis.compare DB shares
WITH chosen AS (
    SELECT [model, pattern, sparsity::VARCHAR, size::VARCHAR, seqlen::VARCHAR, samplers, score]
            AS setting,
        recipe, dataset, if(lower_is_better, ln(value), value) AS value,
        model, pattern, sparsity, size, seqlen, samplers AS sampler, score
    FROM draws
    WHERE dataset NOT IN ('random_tokens', 'ellipses') AND value > 0
), fitted AS (
    SELECT *,
        avg(value) OVER (PARTITION BY setting) AS grand,
        avg(value) OVER (PARTITION BY setting, dataset) AS of_dataset,
        avg(value) OVER (PARTITION BY setting, recipe) AS of_pruner,
        avg(value) OVER (PARTITION BY setting, dataset, recipe) AS of_both
    FROM chosen
)
SELECT model, pattern, sparsity, size, seqlen, sampler, score,
    count(DISTINCT dataset) AS datasets, count(DISTINCT recipe) AS pruners, count(*) AS cells,
    sum((of_dataset - grand) ** 2) / sum((value - grand) ** 2) AS dataset_share,
    sum((of_pruner - grand) ** 2) / sum((value - grand) ** 2) AS pruner_share,
    sum((of_both - of_dataset - of_pruner + grand) ** 2) / sum((value - grand) ** 2)
        AS interaction_share,
    if(count(*) > count(DISTINCT (dataset, recipe)),
        sum((value - of_both) ** 2) / sum((value - grand) ** 2), NULL) AS draw_share
FROM fitted
GROUP BY ALL
HAVING count(DISTINCT dataset) > 1 AND count(DISTINCT recipe) > 1
    AND sum((value - grand) ** 2) > 0
ORDER BY model, pattern, sparsity, size, seqlen, sampler, score
