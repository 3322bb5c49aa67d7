// Signs up, posts and reads through openapi-fetch, with the types that openapi-typescript makes of the document.
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./microblog.js";

type Post = components["schemas"]["Post"];

const baseUrl = process.env.URL!;
const api: Client<paths> = createClient<paths>({ baseUrl });
const username = `ts_${Date.now() % 1e9}`;
const password = "correct horse";

function got<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) throw new Error(`${answer.response.url}: ${JSON.stringify(answer.error)}`);
  return answer.data;
}

const user = got(await api.POST("/api/v1/users", { body: { username, email: `${username}@example.com`, password } }));
const tokens = got(await api.POST("/api/v1/auth/login", { body: { username, password } }));
const headers = { Authorization: `Bearer ${tokens.access_token}` };

const written = await api.POST("/api/v1/posts", {
  headers, params: { header: { "Idempotency-Key": crypto.randomUUID() } }, body: { content: "Hello from TypeScript" },
});
const post: Post = got(written);
const seen = written.response.headers.get("x-consistency-token")!;

const page = got(await api.GET("/api/v1/timeline", {
  headers, params: { query: { limit: 5 }, header: { "X-Consistency-Token": seen } },
}));
const first: Post | undefined = page.posts[0];
if (first?.post_id !== post.post_id || first.user_id !== user.user_id) throw new Error("the timeline lacks the post");

// A problem has a type, too.
const refused = await api.GET("/api/v1/posts/{id}", { params: { path: { id: "1" } } });
if (refused.error?.code !== "not_found") throw new Error(`not a problem: ${JSON.stringify(refused)}`);
console.log(`openapi-typescript: ${user.username} signed up, posted ${post.post_id} and read it`);
