"""Signs up, posts and reads through the client that openapi-python-client makes of the document."""

import os
import time

from microblog_client import AuthenticatedClient, Client
from microblog_client.api.posts import create_post, get_post
from microblog_client.api.sessions import login
from microblog_client.api.timeline import get_timeline
from microblog_client.api.users import register
from microblog_client.models import NewPost, Post, Problem, Registration, SignInByUsername, Tokens, User

url = os.environ["URL"]
username = f"py_{int(time.time() * 1000) % 1_000_000_000}"
password = "correct horse"
anybody = Client(base_url=url)

user = register.sync(client=anybody, body=Registration(
    username=username, email=f"{username}@example.com", password=password))
assert isinstance(user, User), user
tokens = login.sync(client=anybody, body=SignInByUsername(username=username, password=password))
assert isinstance(tokens, Tokens), tokens
me = AuthenticatedClient(base_url=url, token=tokens.access_token)

written = create_post.sync_detailed(client=me, body=NewPost(content="Hello from Python"))
post, seen = written.parsed, written.headers["x-consistency-token"]
assert isinstance(post, Post), post
page = get_timeline.sync(client=me, limit=5, x_consistency_token=seen)
assert page.posts[0].post_id == post.post_id and page.posts[0].user_id == user.user_id, page

refused = get_post.sync("1", client=anybody)
assert isinstance(refused, Problem) and refused.code == "not_found", refused
print(f"openapi-python-client: {user.username} signed up, posted {post.post_id} and read it")
