// What raybox may not have yet: each program goes as far as it is let.
import { Sandbox } from '@e2b/code-interpreter'
import { ofE2b, program, same, that } from './programs.mjs'

program('pause_and_resume', async (c) => {
  const sandbox = await c.create()
  await sandbox.runCode('kept = 1')
  await sandbox.pause()
  same((await sandbox.getInfo()).state, 'paused')
  await sandbox.connect()
  same((await sandbox.runCode('kept')).text, '1')
})

program('create_pausing_at_timeout', async (c) => {
  await c.create({ lifecycle: { onTimeout: 'pause' } })
})

program('create_resuming_by_traffic', async (c) => {
  await c.create({ lifecycle: { onTimeout: 'pause', autoResume: true } })
})

program('snapshot_create', async (c) => {
  const sandbox = await c.create()
  await sandbox.files.write('kept', '1')
  const snapshot = await sandbox.createSnapshot()
  const other = await c.create({}, snapshot.snapshotId)
  same(await other.files.read('kept'), '1')
  await Sandbox.deleteSnapshot(snapshot.snapshotId)
})

program('snapshot_list', async () => {
  await Sandbox.listSnapshots().nextItems()
})

program('snapshot_delete', async () => {
  same(await Sandbox.deleteSnapshot('no-such-snapshot'), false)
})

program('fork', async (c) => {
  const sandbox = await c.create()
  await sandbox.runCode('kept = 1')
  for (const child of await sandbox.fork({ count: 2 })) {
    if (child instanceof Error) throw child
    c.made.push(child)
    same((await child.runCode('kept')).text, '1')
  }
})

program('template_build', async () => {
  const Template = ofE2b('Template')
  await Template.build(Template().fromBaseImage().runCmd('true'), 'conformance', { cpuCount: 1, memoryMB: 512 })
})

program('template_exists', async () => {
  same(await ofE2b('Template').exists('no-such-template'), false)
})

program('template_tags', async () => {
  that(Array.isArray(await ofE2b('Template').getTags('base')), 'a list')
})

program('volume_create', async () => {
  const Volume = ofE2b('Volume')
  const volume = await Volume.create('conformance')
  await Volume.destroy(volume.volumeId)
})

program('volume_list', async () => {
  that(Array.isArray(await ofE2b('Volume').list()), 'a list')
})

program('volume_mounts', async (c) => {
  await c.create({ volumeMounts: { '/mnt/own': 'conformance' } })
})

program('secret_create', async () => {
  const Secret = ofE2b('Secret')
  await Secret.create('conformance', 'value')
  await Secret.destroy('conformance')
})

program('secret_list', async () => {
  await ofE2b('Secret').list().nextItems()
})

program('workload_identity', async (c) => {
  await c.create({ iam: { tokens: { own: { audience: 'example.org', tokenType: 'JWT-SVID' } } } })
})

program('mcp_create', async (c) => {
  await c.create({ mcp: { exa: { apiKey: 'none' } } })
})

program('mcp_url', async (c) => {
  that(/^https:\/\/50005-[a-z0-9]+\..*\/mcp$/.test((await c.sandbox()).getMcpUrl()), 'by its port')
})
