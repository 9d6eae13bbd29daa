// Writes and watches files, runs commands, types into a terminal, and fetches a file by a signed URL.
import { CommandExitError, Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
try {
  await sandbox.files.makeDir('data')
  const changes = []
  const watcher = await sandbox.files.watchDir('data', (event) => changes.push(event.name))
  await sandbox.files.write([
    { path: 'data/numbers.txt', data: '3\n1\n2\n' },
    { path: 'data/names.txt', data: 'ü\n' },
  ])
  console.log('files:', (await sandbox.files.list('data')).map((entry) => entry.name).join(' '))

  const sorted = await sandbox.commands.run('sort -n numbers.txt | tr "\\n" " "', { cwd: 'data' })
  console.log('sorted:', sorted.stdout)
  try {
    await sandbox.commands.run('exit 3')
  } catch (error) {
    console.log('exit code:', error instanceof CommandExitError && error.exitCode)
  }

  const cat = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(cat.pid, 'hello\n')
  await sandbox.commands.closeStdin(cat.pid)
  console.log('cat:', (await cat.wait()).stdout.trim())

  let shown = ''
  const decoder = new TextDecoder()
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    onData: (data) => (shown += decoder.decode(data, { stream: true })),
  })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('expr 6 \\* 7; exit\n'))
  await terminal.wait()
  console.log('terminal:', shown.includes('42'))

  const url = await sandbox.downloadUrl('data/names.txt')
  console.log('by URL:', (await (await fetch(url)).text()).trim())

  await watcher.stop()
  console.log('watched:', new Set(changes).has('numbers.txt'))
} finally {
  await sandbox.kill()
}
