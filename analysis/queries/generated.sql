-- What is the text like that the model wrote: how long, how likely, how repetitive, in which language?
SELECT
    dataset, count(*) AS texts, any_value(dropped_fraction) AS dropped,
    avg(tokens) AS tokens, median(perplexity) AS perplexity, avg(repetition) AS repetition,
    mode(language) AS language
FROM texts
GROUP BY dataset, pool
ORDER BY dataset
