// Makes one replica set of the members, and the users. May run at any time, any number of times: it changes nothing that
// is as it should be, and gives the users the passwords that are in the Secret now. Of a set that is there it changes no
// member: add one with rs.add().
const { MONGODB_MEMBERS, ROOT_USERNAME, ROOT_PASSWORD, SERVICE_USERNAME, SERVICE_PASSWORD, RETIRED_USERNAME } = process.env;
const hosts = MONGODB_MEMBERS.split(",");
// Signs in as the members do among themselves: there are no users yet, or they have other passwords.
const key = require("fs").readFileSync("/etc/mongodb-keyfile/keyfile", "utf8").replace(/\s/g, "");

function signIn(where, options) {
  const mongo = new Mongo(`mongodb://${where}/?tls=true&tlsCAFile=/etc/mongodb-tls/ca.crt&${options}`);
  mongo.getDB("local").auth("__system", key);
  return mongo.getDB("admin");
}

function isInitiated(admin) {
  try {
    return admin.runCommand({ replSetGetStatus: 1 }).ok === 1;
  } catch (error) {
    if (error.codeName === "NotYetInitialized") return false;
    throw error;
  }
}

function initiate(admin) {
  print(`Initiating the replica set: ${hosts.join(", ")}`);
  const set = {
    _id: "rs0",
    members: hosts.map((host, index) => ({ _id: index, host, priority: index === 0 ? 2 : 1 })),
  };
  admin.runCommand({ replSetInitiate: set });
}

function setUser(admin, user, pwd, roles) {
  const exists = admin.runCommand({ usersInfo: user }).users.length > 0;
  admin.runCommand({ [exists ? "updateUser" : "createUser"]: user, pwd, roles });
  print(`${user}: ${exists ? "password and roles set" : "made"}`);
}

function dropUser(admin, user) {
  if (admin.runCommand({ usersInfo: user }).users.length === 0) return;
  admin.runCommand({ dropUser: user });
  print(`${user}: dropped`);
}

// Also by a connection that rests. A member that is away is an error: who is connected to it is not known.
function isUsed(user) {
  for (const host of hosts) {
    const member = signIn(host, "directConnection=true&serverSelectionTimeoutMS=5000");
    const connections = member.aggregate([
      { $currentOp: { allUsers: true, idleConnections: true } },
      { $match: { "effectiveUsers.user": user } },
    ]);
    if (connections.hasNext()) return true;
  }
  return false;
}

// All are asked: one whose volume was lost knows nothing of the set that the others still are. One that is away does no
// harm if another says that there is a set; a new set is made of all or not at all.
let first, initiated = false, away;
for (const host of hosts) {
  try {
    const member = signIn(host, "directConnection=true&serverSelectionTimeoutMS=5000");
    first ??= member;
    initiated = isInitiated(member) || initiated;
  } catch (error) {
    print(`${host}: ${error.message}`);
    away = error;
  }
}
if (!initiated && away) throw away;
if (!initiated) initiate(first);

// Waits for a primary; the Job tries again if that was too short.
const primary = signIn(MONGODB_MEMBERS, "replicaSet=rs0&serverSelectionTimeoutMS=60000");
setUser(primary, ROOT_USERNAME, ROOT_PASSWORD, ["root"]);
// The log and the views. Change streams and transactions need no more than this.
setUser(primary, SERVICE_USERNAME, SERVICE_PASSWORD, [
  { role: "readWrite", db: "microblog" },
  { role: "readWrite", db: "microblog_views" },
]);
// Whom nobody uses any more, after a rotation of the password. The Job tries again while somebody does.
if (RETIRED_USERNAME && ![ROOT_USERNAME, SERVICE_USERNAME].includes(RETIRED_USERNAME)) {
  if (isUsed(RETIRED_USERNAME)) throw new Error(`${RETIRED_USERNAME}: somebody is still connected as this user`);
  dropUser(primary, RETIRED_USERNAME);
}
