// Runs every program, or those that are named, with the clients that are installed beside this file.
import { Absent, Client, Differs, Mismatch, programs } from './programs.mjs'
import './cells.mjs'
import './commands.mjs'
import './files.mjs'
import './ports.mjs'
import './sandboxes.mjs'
import './unavailable.mjs'

const REFUSAL = /not available in this version|not supported yet|--network egress/

function read(error, ids) {
  let text = String(error?.message ?? error)
  for (const id of ids) text = text.replaceAll(id, '<id>')
  if (error instanceof Differs) return ['differs', text]
  if (error instanceof Absent) return ['absent', text]
  if (error instanceof Mismatch) return ['fails', text]
  const name = error?.constructor?.name ?? typeof error
  if (!['Error', 'TypeError'].includes(name) && REFUSAL.test(text)) return ['refused', `${name}: ${text}`]
  console.error(error)
  return ['fails', `${name}: ${text}`]
}

const client = new Client()
const names = process.argv.length > 2 ? process.argv.slice(2) : [...programs.keys()]
try {
  for (const name of names) {
    let [status, detail] = ['works', '']
    try {
      await programs.get(name)(client)
    } catch (error) {
      ;[status, detail] = read(error, client.made.map((sandbox) => sandbox.sandboxId))
    }
    console.log(JSON.stringify({ name, status, detail }))
    await client.end(false)
  }
} finally {
  await client.end(true)
}
process.exit(0) // sockets that are kept alive would hold it for minutes
