//! One program under test: started, killed, paused, stopped, started again, always the same way.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program, its arguments and its environment: every start of it is the same.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: Mutex<PathBuf>,
    arguments: Vec<OsString>,
    /// Besides these it has only `PATH` and `HOME` of the test.
    environment: Mutex<Vec<(String, String)>>,
    folder: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Until this is dropped, the test itself runs only on the last of the machine's processors.
pub struct OnlyLast {
    /// How many processors there are before the last.
    pub others: usize,
}

impl OnlyLast {
    /// `None` where a process cannot be bound to processors.
    pub fn take() -> Option<Self> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let others = all.checked_sub(1).filter(|others| *others > 0)?;
        bind("self", others..all).then_some(Self { others })
    }
}

impl Drop for OnlyLast {
    fn drop(&mut self) {
        bind("self", 0..=self.others);
    }
}

/// Binds all threads of a process, and those that they start, to these processors.
#[cfg(target_os = "linux")]
fn bind(process: &str, processors: impl IntoIterator<Item = usize>) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    for processor in processors {
        set.set(processor);
    }
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.expect("our own process").flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for thread in ids.filter_map(Pid::from_raw) {
        // A thread may end meanwhile.
        let _ = rustix::thread::sched_setaffinity(Some(thread), &set);
    }
    true
}

#[cfg(not(target_os = "linux"))]
fn bind(_: &str, _: impl IntoIterator<Item = usize>) -> bool {
    false
}

impl Process {
    pub fn new(name: &str, program: &Path, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: Mutex::new(program.to_owned()),
            arguments: Vec::new(),
            environment: Mutex::default(),
            folder: folder.to_owned(),
            child: Mutex::default(),
        }
    }

    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn environment(self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables().extend(variables);
        self
    }

    /// Gives a variable another value, from the program's next start on.
    pub fn sets(&self, name: &str, value: &str) {
        self.variables().push((name.to_owned(), value.to_owned()));
    }

    fn variables(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.environment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the program from its next start on; arguments and environment stay.
    pub fn becomes(&self, program: &Path) {
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = program.to_owned();
    }

    /// Starts the program. It must not be running.
    pub fn start(&self) {
        let mut child = self.child();
        assert!(child.is_none(), "{} is running already", self.name);
        let program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        let program = program.clone();
        let mut command = dying_with_us(&program);
        let (out, log) = (self.open(&self.out()), self.open(&self.log()));
        command
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"))
            .envs(self.variables().iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log);
        let started = spawn(command);
        *child =
            Some(started.unwrap_or_else(|error| {
                panic!("{} cannot be started: {error}", program.display())
            }));
    }

    /// SIGKILL. Returns the exit status if the process had ended by itself before.
    pub fn kill(&self) -> Option<ExitStatus> {
        let ended = self.ended();
        if let Some(mut child) = self.child().take() {
            // An error means that it has just ended by itself; `wait` is still needed.
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    }

    /// SIGTERM: asks the process to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT: what Ctrl-C sends.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGHUP: asks it to read its configuration again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP: the process stands still and cannot notice it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: the process goes on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own process takes signals");
    }

    fn pid(&self) -> Pid {
        let child = self.child();
        let child = child.as_ref().expect("it was started");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.expect("a process id")
    }

    /// From now on no file of the process can grow past so many bytes, as if its disk were full.
    #[cfg(target_os = "linux")]
    pub fn no_file_past(&self, bytes: u64) {
        let limit = rustix::process::Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        rustix::process::prlimit(Some(self.pid()), rustix::process::Resource::Fsize, limit)
            .expect("our own process takes limits");
    }

    #[cfg(not(target_os = "linux"))]
    pub fn no_file_past(&self, _: u64) {
        panic!("only Linux limits the files of a process that runs");
    }

    /// Binds the process to the first `processors` of this machine.
    pub fn only_first(&self, processors: usize) {
        bind(&self.pid().as_raw_nonzero().to_string(), 0..processors);
    }

    /// The resident memory of the process in bytes; 0 where it cannot be read.
    pub fn resident(&self) -> u64 {
        let child = self.child();
        let id = child.as_ref().map(Child::id).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&self) -> bool {
        let mut child = self.child();
        child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The exit status, if it was started and has ended. Only the first call returns it.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child
            .as_mut()?
            .try_wait()
            .expect("our own process can be asked");
        if status.is_some() {
            *child = None;
        }
        status
    }

    /// Waits for its end; `None` if it goes on for longer, or was not started.
    pub async fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let give_up = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > give_up || self.child().is_none() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What all its runs printed.
    pub fn output(&self) -> String {
        read(&self.out())
    }

    /// What all its runs logged.
    pub fn logged(&self) -> String {
        read(&self.log())
    }

    /// Deletes what it printed, where that is secret.
    pub fn forget_output(&self) {
        // The file is not there if nothing was printed.
        let _ = std::fs::remove_file(self.out());
    }

    /// The last lines of what it printed and logged.
    pub fn tail(&self, lines: usize) -> String {
        let mut tail = String::new();
        for path in [self.out(), self.log()] {
            let text = read(&path);
            let all: Vec<&str> = text.lines().collect();
            for line in &all[all.len().saturating_sub(lines)..] {
                tail.push_str(&format!("  {} | {line}\n", self.name));
            }
        }
        tail
    }

    fn out(&self) -> PathBuf {
        self.folder.join(format!("{}.out", self.name))
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn open(&self, path: &Path) -> File {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes a line into the log, to mark the moment of a fault.
    pub fn note(&self, line: &str) {
        // The mark only helps people who read the log.
        let _ = writeln!(self.open(&self.log()), "=== {line}");
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The exit code or the signal, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn read(path: &Path) -> String {
    // Logs may hold half a character where a process was killed.
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A command that the kernel kills when the test process ends for any reason. `Drop` is not enough:
/// it does not run when the test is killed.
fn dying_with_us(program: &Path) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let tried = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "true"])
            .status();
        tried.is_ok_and(|status| status.success())
    });
    if !*SETPRIV {
        return Command::new(program);
    }
    // `setpriv` replaces itself by the program: same process, same id.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// Starts processes from a thread that lives as long as the tests: the kernel kills the child when
/// the *thread* that started it ends, not when the process does.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // An error means that the caller no longer waits.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::sync_channel(1);
    let orders = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    orders.send((command, answer)).map_err(gone)?;
    drop(orders);
    answered.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Process::new("sleeper", Path::new("/bin/sh"), folder)
            .arguments(["-c", "echo started; exec sleep 60"])
    }

    #[tokio::test]
    async fn a_process_is_killed_paused_asked_to_stop_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        process.start();
        assert!(process.ended().is_none());
        process.kill();
        process.start();
        process.pause();
        assert!(process.resident() > 0);
        process.resume();
        process.terminate();
        let status = process.wait(Duration::from_secs(10)).await.unwrap();
        assert_eq!(describe(status), "signal 15");
        // A stopped process is killed all the same.
        process.start();
        process.pause();
        process.kill();
        assert!(process.ended().is_none());
    }

    #[tokio::test]
    async fn what_a_process_prints_is_kept_over_its_starts() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::new("echo", Path::new("/bin/sh"), folder.path())
            .arguments(["-c", "echo out; echo err >&2; exit 3"]);
        for _ in 0..2 {
            process.start();
            let status = process.wait(Duration::from_secs(10)).await.unwrap();
            assert_eq!(describe(status), "exit code 3");
        }
        assert_eq!(process.output(), "out\nout\n");
        assert_eq!(process.tail(1), "  echo | out\n  echo | err\n");
    }
}
