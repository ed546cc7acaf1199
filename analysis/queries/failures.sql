-- Which cells failed, grouped by cause?
SELECT signature, any_value(cause) AS cause, count(DISTINCT cell) AS cells, any_value(log) AS log
FROM failures
WHERE cell IN (SELECT cell FROM results WHERE status = 'failed')
GROUP BY signature
ORDER BY cells DESC
