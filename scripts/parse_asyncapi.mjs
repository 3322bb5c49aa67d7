// Reads an AsyncAPI document with the AsyncAPI initiative's own parser, and prints what it finds wrong, a line each.
// Its arguments: the folder with the parser in its node_modules, and the document. Exits with 1 if anything is an error
// or a warning; remarks (a missing contact, a newer version of the specification) are left out.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const [folder, path] = process.argv.slice(2)
const { Parser } = createRequire(join(folder, 'node_modules', 'x'))('@asyncapi/parser')
const WARNING = 1

const { document, diagnostics } = await new Parser().parse(readFileSync(path, 'utf8'), { source: path })
const found = diagnostics.filter(({ severity }) => severity <= WARNING)
for (const { range, code, message, path: at } of found) {
  console.log(`line ${range.start.line + 1}: ${code}: ${message} (${at.join('/')})`)
}
if (!document && found.length === 0) console.log('it cannot be read')
process.exit(document && found.length === 0 ? 0 : 1)
