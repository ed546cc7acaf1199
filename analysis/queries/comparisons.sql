-- Which differences are real, which are none within delta, and what would settle the others?
-- The table comparisons has them on each dataset too, with p values, errors and degrees of freedom.
SELECT score, axis, model, recipe, pattern, sparsity, size, seqlen, sampler, a, b,
    estimand, verdict, difference, low, high, unit, p_holm, draws,
    if(verdict = 'undecided' AND bound_by_documents, 'documents', more_draws::VARCHAR)
        AS more_draws, mixed
FROM comparisons
WHERE axis = 'dataset' OR dataset IS NULL
ORDER BY score, axis, model, recipe, pattern, sparsity, size, seqlen, sampler, a, b, estimand
