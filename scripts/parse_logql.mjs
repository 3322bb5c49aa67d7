// Reads a list of LogQL queries from standard input, and prints for each what is wrong, or an empty text.
// Its argument is the folder whose node_modules has the grammar: node parse_logql.mjs FOLDER
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const { parser } = createRequire(`${process.argv[2]}/`)('@grafana/lezer-logql');

function fault(query) {
  const cursor = parser.parse(query).cursor();
  do {
    if (cursor.type.isError) {
      return `no LogQL from character ${cursor.from} on: ${query.slice(cursor.from) || 'it ends too early'}`;
    }
  } while (cursor.next());
  return '';
}

console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(fault)));
