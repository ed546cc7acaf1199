-- Which cells are worse than plain magnitude pruning at the same sparsity and pattern?
WITH magnitude AS (
    SELECT model, pattern, sparsity, score, avg(value) AS magnitude
    FROM results JOIN scores USING (cell)
    WHERE recipe = 'magnitude' AND replicate = 0
    GROUP BY ALL
)
SELECT model, recipe, pattern, sparsity, size, seqlen, sampler, dataset, seed, score, value,
    magnitude
FROM results JOIN scores USING (cell)
JOIN magnitude USING (model, pattern, sparsity, score)
WHERE pruner NOT IN ('magnitude', 'dense', 'random') AND replicate = 0
    AND if(lower_is_better, value > magnitude, value < magnitude)
ORDER BY model, recipe, pattern, sparsity, size, seqlen, score, dataset, sampler, seed
