// Runs the query of standard input as an analyst and prints its rows, one JSON object a line. An error goes to standard error, with exit status 1.
import { createClient } from '@clickhouse/client'
import { readFileSync } from 'node:fs'

const client = createClient({
  url: process.env.CLICKHOUSE_URL,
  username: process.env.CLICKHOUSE_USER,
  password: process.env.CLICKHOUSE_PASSWORD,
  database: 'audit',
})
try {
  const result = await client.query({
    query: readFileSync(0, 'utf8'),
    query_params: JSON.parse(process.env.CLICKHOUSE_PARAMS ?? '{}'),
    format: 'JSONEachRow',
  })
  for await (const rows of result.stream()) {
    for (const row of rows) console.log(row.text)
  }
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  await client.close()
}
