-- What does the dense model score?
SELECT * EXCLUDE (cell, run, dataset, size, seed, seqlen, sampler, similarity, similarity_se)
FROM results
WHERE pruner = 'dense'
