// Files.
import { FileType, FilesystemEventType } from 'e2b'
import { isA, program, raised, same, that, until } from './programs.mjs'

const BYTES = Uint8Array.from({ length: 76_800 }, (_, at) => at % 256)
const { CREATE, CHMOD, WRITE, REMOVE } = FilesystemEventType

const bytesOf = async (files, path) => new Uint8Array(await files.read(path, { format: 'bytes' }))
const stream = () =>
  new ReadableStream({
    start(controller) {
      controller.enqueue(BYTES.slice(0, 70_000))
      controller.enqueue(BYTES.slice(70_000))
      controller.close()
    },
  })

program('files_write_and_read_text', async (c) => {
  const { files } = await c.sandbox()
  const written = await files.write('text/né.txt', 'Grüße\n')
  same([written.name, written.path], ['né.txt', '/home/user/text/né.txt'])
  same(await files.read('/home/user/text/né.txt'), 'Grüße\n')
  await files.write('text/né.txt', '')
  same(await files.read('~/text/né.txt'), '')
})

program('files_read_bytes', async (c) => {
  const { files } = await c.sandbox()
  await files.write('bytes', BYTES.buffer)
  same(await bytesOf(files, 'bytes'), BYTES)
})

program('files_read_blob', async (c) => {
  const { files } = await c.sandbox()
  await files.write('blob', new Blob([BYTES]))
  same(new Uint8Array(await (await files.read('blob', { format: 'blob' })).arrayBuffer()), BYTES)
})

program('files_read_stream', async (c) => {
  const { files } = await c.sandbox()
  await files.write('stream', BYTES.buffer)
  const parts = []
  for await (const part of await files.read('stream', { format: 'stream' })) parts.push(part)
  same(new Uint8Array(Buffer.concat(parts)), BYTES)
})

program('files_write_stream', async (c) => {
  const { files } = await c.sandbox()
  await files.write('parts', stream())
  same(await bytesOf(files, 'parts'), BYTES)
})

program('files_write_octet_stream', async (c) => {
  const { files } = await c.sandbox()
  await files.write('octets', BYTES.buffer, { useOctetStream: true })
  same(await bytesOf(files, 'octets'), BYTES)
})

program('files_gzip', async (c) => {
  const { files } = await c.sandbox()
  await files.write('packed', BYTES.buffer, { gzip: true })
  same(new Uint8Array(await files.read('packed', { format: 'bytes', gzip: true })), BYTES)
})

program('files_write_many', async (c) => {
  const { files } = await c.sandbox()
  const written = await files.write([
    { path: 'many/a', data: '1' },
    { path: 'many/b/c', data: '2' },
  ])
  same(
    written.map((one) => one.path),
    ['/home/user/many/a', '/home/user/many/b/c']
  )
  same(await files.read('many/b/c'), '2')
})

program('files_metadata', async (c) => {
  const { files } = await c.sandbox()
  same((await files.write('tagged', 'x', { metadata: { Author: 'me' } })).metadata, { author: 'me' })
  same((await files.getInfo('tagged')).metadata, { author: 'me' })
  await files.write('tagged', 'y')
  that(!Object.keys((await files.getInfo('tagged')).metadata ?? {}).length, 'writing clears it')
})

program('files_list', async (c) => {
  const { files } = await c.sandbox()
  await files.write(['b', 'a/x/y', 'c'].map((path) => ({ path: `tree/${path}`, data: '' })))
  same(
    (await files.list('tree')).map((one) => one.name),
    ['a', 'b', 'c']
  )
  same(
    (await files.list('tree', { depth: 3 })).map((one) => one.path.slice('/home/user/tree/'.length)),
    ['a', 'a/x', 'a/x/y', 'b', 'c']
  )
})

program('files_get_info', async (c) => {
  const sandbox = await c.sandbox()
  await sandbox.files.write('known/f', '12345')
  await sandbox.commands.run('ln -s f known/link; chmod 640 known/f')
  const info = await sandbox.files.getInfo('known/f')
  same([info.name, info.type, info.path, info.size], ['f', FileType.FILE, '/home/user/known/f', 5])
  same([info.mode, info.permissions, info.owner, info.group], [0o640, '-rw-r-----', 'user', 'user'])
  that(Math.abs(info.modifiedTime - Date.now()) < 3_600_000, 'it was modified now')
  const link = await sandbox.files.getInfo('known/link')
  same([link.name, link.symlinkTarget], ['link', '/home/user/known/f'])
  same((await sandbox.files.getInfo('known')).type, FileType.DIR)
})

program('files_exists_make_rename_remove', async (c) => {
  const { files } = await c.sandbox()
  same(await files.makeDir('made/deep'), true)
  same(await files.makeDir('made/deep'), false)
  await files.write('made/deep/f', 'x')
  same((await files.rename('made/deep', 'made/moved')).path, '/home/user/made/moved')
  same(await files.exists('made/deep'), false)
  same(await files.exists('made/moved/f'), true)
  await files.remove('made')
  same(await files.exists('made'), false)
  await files.remove('made')
})

program('files_errors', async (c) => {
  const { files } = await c.sandbox()
  for (const call of ['read', 'list', 'getInfo', 'watchDir']) {
    const error = await raised(() => files[call]('no/such', call === 'watchDir' ? () => {} : undefined))
    that(isA(error, 'NotFoundError'), `not found: ${error}`)
  }
  let error = await raised(() => files.read('/tmp'))
  that(isA(error, 'InvalidArgumentError'), `a folder: ${error}`)
  error = await raised(() => files.list('/etc/passwd'))
  that(isA(error, 'InvalidArgumentError'), `no folder: ${error}`)
})

program('files_user', async (c) => {
  const { files } = await c.sandbox()
  await files.write('/root/own', 'x', { user: 'root' })
  same((await files.getInfo('own', { user: 'root' })).owner, 'root')
  const error = await raised(() => files.read('x', { user: 'nobody-here' }))
  that(isA(error, 'AuthenticationError'), `who: ${error}`)
})

async function watching(files, path, options, change, ready) {
  const seen = []
  const handle = await files.watchDir(path, (event) => void seen.push(event), options)
  await change()
  await until(
    () => seen.some(ready),
    () => `it is told: ${JSON.stringify(seen.map((one) => [one.name, one.type]))}`
  )
  await handle.stop()
  return seen
}

program('files_watch', async (c) => {
  const { files } = await c.sandbox()
  await files.makeDir('watched')
  const change = () => files.write('watched/new', 'x')
  const seen = await watching(files, 'watched', {}, change, (one) => one.name === 'new' && one.type === WRITE)
  same(
    seen.map((one) => one.type),
    [CREATE, CHMOD, WRITE]
  )
})

program('files_watch_recursive', async (c) => {
  const sandbox = await c.sandbox()
  await sandbox.files.makeDir('deep')
  const change = () => sandbox.commands.run('mkdir deep/sub; sleep 0.2; echo 1 > deep/sub/f; rm deep/sub/f')
  const removed = (one) => one.name === 'sub/f' && one.type === REMOVE
  const seen = await watching(sandbox.files, 'deep', { recursive: true }, change, removed)
  that(
    seen.some((one) => one.name === 'sub' && one.type === CREATE),
    'the folder'
  )
})

program('files_watch_entries', async (c) => {
  const { files } = await c.sandbox()
  await files.makeDir('entries')
  const change = () => files.write('entries/f', '123')
  const seen = await watching(files, 'entries', { includeEntry: true }, change, (one) => one.type === WRITE)
  same(Number(seen.at(-1).entry.size), 3)
})

program('files_signed_urls', async (c) => {
  const sandbox = await c.sandbox()
  const form = new FormData()
  form.append('file', new Blob(['by url']), 'f')
  const up = await sandbox.uploadUrl('signed/f', { useSignatureExpiration: 60 })
  same((await fetch(up, { method: 'POST', body: form })).status, 200)
  const down = await sandbox.downloadUrl('signed/f')
  same(await (await fetch(down)).text(), 'by url')
  same((await fetch(down.replace('signature=v1_', 'signature=v1_x'))).status, 401)
  const late = await fetch(await sandbox.downloadUrl('signed/f', { useSignatureExpiration: -10 }))
  same([late.status, (await late.json()).message], [401, 'signature is already expired'])
})

program('files_disk_full', async (c) => {
  const sandbox = await c.create()
  await sandbox.commands.run('head -c 100G /dev/zero > full 2>/dev/null || true')
  const error = await raised(() => sandbox.files.write('more', 'x'.repeat(1_000_000)))
  that(isA(error, 'NotEnoughSpaceError'), `no space: ${error}`)
})
