-- How much do the masks of two calibration datasets overlap, by block and linear?
WITH drawn AS (
    SELECT c.model, c.recipe, c.pattern, c.sparsity, c.size, c.seqlen, c.sampler, c.dataset, c.seed,
        m.block, m.linear, m.positions, m.sample, bit_count(m.sample) AS pruned
    FROM masks m JOIN cells c USING (cell)
    WHERE c.in_grid AND c.replicate = 0 AND c.dataset IS NOT NULL
), counted AS (
    SELECT model, recipe, pattern, sparsity, size, seqlen, block, linear, a.positions,
        a.dataset AS a, a.sampler AS sampler_a, b.dataset AS b, b.sampler AS sampler_b,
        a.pruned + b.pruned AS pruned, bit_count(a.sample & b.sample) AS shared
    FROM drawn a JOIN drawn b
        USING (model, recipe, pattern, sparsity, size, seqlen, block, linear)
    WHERE (a.dataset, a.sampler, a.seed) < (b.dataset, b.sampler, b.seed)
        AND a.positions = b.positions
), pairs AS (
    SELECT * EXCLUDE (pruned, shared), shared / nullif(pruned - shared, 0) AS overlap FROM counted
)
SELECT model, recipe, pattern, sparsity, size, seqlen, block, linear, a, sampler_a, b, sampler_b,
    count(*) AS draw_pairs,
    avg(overlap) AS overlap,
    -- of a share among the positions that either prunes: binomial, since they are a random sample
    sqrt(avg(overlap) * (1 - avg(overlap))
        / (any_value(positions) * 2 * any_value(sparsity) / (1 + avg(overlap)))) AS sampling_se,
    stddev_samp(overlap) AS sd_over_draws,
    sparsity / (2 - sparsity) AS by_chance
FROM pairs
GROUP BY ALL
ORDER BY model, recipe, pattern, sparsity, size, seqlen, a, sampler_a, b, sampler_b, block, linear
