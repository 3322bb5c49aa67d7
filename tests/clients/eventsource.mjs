// eventsource: as many readers as COUNT says.
import { EventSource } from 'eventsource'

const authorized = (input, init) =>
  fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${process.env.TOKEN}` } })
for (let number = 0; number < Number(process.env.COUNT ?? 1); number++) {
  const source = new EventSource(process.env.URL, { fetch: authorized })
  source.onopen = () => console.log('open')
  source.addEventListener('post', event => console.log('event', JSON.parse(event.data).content))
  source.onmessage = event => console.log('event unnamed', event.data)
  source.onerror = event => console.log(source.readyState === source.CLOSED ? 'end' : 'error', event.code ?? '')
}
