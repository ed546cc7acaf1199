-- How large is the error of each block's output, on the calibration set and on held-out text?
WITH blocks AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, sampler, dataset,
        generate_subscripts(block_errors, 1) - 1 AS block,
        unnest(block_errors) AS error,
        unnest(block_heldout_errors) AS heldout_error
    FROM cells
    WHERE in_grid AND replicate = 0
)
SELECT model, recipe, pattern, sparsity, size, seqlen, sampler, dataset, block,
    count(*) AS cells, avg(error) AS error, avg(heldout_error) AS heldout_error
FROM blocks
WHERE error IS NOT NULL OR heldout_error IS NOT NULL
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, size, seqlen, sampler, dataset, block
