// @microsoft/fetch-event-source is for browsers: `document` and `window` are the least that it asks for.
globalThis.document = { addEventListener() {}, removeEventListener() {}, hidden: false }
globalThis.window = { setTimeout, clearTimeout, fetch }
const { fetchEventSource } = require('@microsoft/fetch-event-source')

fetchEventSource(process.env.URL, {
  openWhenHidden: true,
  headers: { authorization: `Bearer ${process.env.TOKEN}` },
  onopen: async response => console.log(response.ok ? 'open' : `error ${response.status}`),
  onmessage: event => console.log('event', event.event === 'post' ? JSON.parse(event.data).content : 'unnamed'),
  onerror: error => console.log('error', error.message),
}).then(() => console.log('end'), error => console.log('end', error.message))
