-- What does the dense model score?
SELECT model, dtype, score, value, m.stderr, m.n
FROM results r JOIN scores s USING (cell)
LEFT JOIN (
    SELECT e.cell, e.name, m.stderr, m.n
    FROM evaluations e JOIN metrics m USING (evaluation)
    WHERE e.in_grid AND m.task = e.name AND m.metric = e.headline
) m ON m.cell = r.cell AND m.name = s.score.replace('ppl_', '')
WHERE pruner = 'dense' AND score IN (SELECT score FROM scores WHERE value IS NOT NULL)
ORDER BY model, number
