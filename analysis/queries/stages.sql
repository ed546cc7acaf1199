-- Where does the time go: seconds, and GPU seconds, by stage?
SELECT c.pruner, s.stage, count(*) AS cells, sum(s.seconds) AS seconds,
    sum(s.seconds) FILTER (c.gpu_seconds IS NOT NULL) AS gpu_seconds,
    median(s.seconds) AS median_seconds, max(s.seconds) AS longest
FROM stages s JOIN cells c USING (cell)
GROUP BY ALL
ORDER BY c.pruner, seconds DESC
