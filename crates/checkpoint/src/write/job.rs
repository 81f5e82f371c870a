//! The output folder of a job: what is done, what is left, and how a killed job goes on.
//!
//! While a job runs, the folder holds nothing but `.treillage/`: `job.json` with the job's settings, one complete
//! safetensors file for each group that is done, and whatever the caller keeps in `state/`. Finishing writes the
//! checkpoint's files one by one, each beside and renamed, then moves the job's description out of `.treillage/`, as the
//! file `.treillage-finished`, removes the folder and last that file. Whenever the process dies, the next one finds either
//! an unfinished job, which it goes on with, or the description of a finished one, which it cleans up after. Every file
//! is a function of the job alone, so that interruptions leave no trace.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    atomic::{self, sync_dir, write_via},
    part::{OutTensor, write_tensors},
};
use crate::{Error, Result, Safetensors, WriteError, config};

const WORK: &str = ".treillage";
const FINISHED: &str = ".treillage-finished";
const JOB: &str = "job.json";
const STATE: &str = "state";

/// An output folder that this process has to itself.
pub(super) struct Job {
    dir: PathBuf,
    groups: Vec<String>,
    /// Held open: the lock ends with the process, however it ends. `None` once all files are in place.
    lock: Option<File>,
}

impl Job {
    /// Begins a job in the empty or new folder `dir`, or goes on with one of the same `settings` and `groups`.
    pub(super) fn create_or_resume(
        dir: &Path,
        settings: Value,
        groups: Vec<String>,
    ) -> Result<Self> {
        let io_error = |cause| Error::io("write", dir, cause);
        // Through text, as what it is compared with: reading a number may round its last digit.
        let wanted = serde_json::json!({"settings": settings, "groups": groups}).to_string();
        let wanted: Value = serde_json::from_str(&wanted).map_err(|e| io_error(e.into()))?;
        let job = |lock| Self {
            dir: dir.to_owned(),
            groups: groups.clone(),
            lock,
        };
        let (work, finished) = (dir.join(WORK), dir.join(FINISHED));
        if finished.exists() && config::read(&finished)? == wanted {
            return Ok(job(None));
        }
        let described = work.join(JOB);
        if !described.exists() {
            fs::create_dir_all(dir).map_err(io_error)?;
            for entry in fs::read_dir(dir).map_err(io_error)? {
                if entry.map_err(io_error)?.file_name() != WORK {
                    return Err(WriteError::NotEmpty.at(dir));
                }
            }
            fs::create_dir_all(work.join(STATE)).map_err(io_error)?;
        }
        let lock = File::create(work.join("lock")).map_err(io_error)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(WriteError::Busy.at(dir));
        }
        if !described.exists() {
            write_via(&work.join("job.tmp"), &described, atomic::json(&wanted))?;
        } else if let Some(other) = first_difference(&wanted, &config::read(&described)?) {
            return Err(WriteError::OtherJob(other).at(dir));
        }
        Ok(job(Some(lock)))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the caller keeps what it needs to go on; removed at the end.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.join(WORK).join(STATE)
    }

    /// Names of the groups that are not written yet, in order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &str> {
        let missing = |index: &usize| self.lock.is_some() && !self.part(*index).exists();
        (0..self.groups.len())
            .filter(missing)
            .map(|index| self.groups[index].as_str())
    }

    /// The file of `group`, which was written.
    pub(super) fn written(&self, group: &str) -> Result<PathBuf> {
        Ok(self.part(self.index(group)?))
    }

    fn index(&self, group: &str) -> Result<usize> {
        let index = self.groups.iter().position(|name| name == group);
        index.ok_or_else(|| WriteError::UnknownGroup(group.to_owned()).at(&self.dir))
    }

    /// Writes `group`, all or nothing.
    pub(super) fn write_group(&self, group: &str, tensors: &[OutTensor<'_>]) -> Result<()> {
        let index = self.index(group)?;
        let beside = self.dir.join(WORK).join("part.tmp");
        write_via(&beside, &self.part(index), |out| {
            write_tensors(out, tensors)
        })
    }

    /// Writes the file `name` of the finished checkpoint.
    pub(super) fn write_file(
        &self,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<()> {
        let beside = self.dir.join(WORK).join("file.tmp");
        write_via(&beside, &self.dir.join(name), fill)
    }

    /// Calls `write_files` with all groups, which then writes every file of the checkpoint, and cleans up. Does
    /// only what is left of that if an earlier process died at it.
    pub(super) fn finish(
        mut self,
        write_files: impl FnOnce(&Job, &[Safetensors]) -> Result<()>,
    ) -> Result<()> {
        let finished = self.dir.join(FINISHED);
        if self.lock.is_some() {
            if let Some(group) = self.pending().next() {
                return Err(WriteError::MissingGroup(group.to_owned()).at(&self.dir));
            }
            let parts = (0..self.groups.len()).map(|index| Safetensors::open(self.part(index)));
            write_files(&self, &parts.collect::<Result<Vec<_>>>()?)?;
            // Closed first, because some systems do not rename a folder with open files.
            self.lock = None;
            let described = self.dir.join(WORK).join(JOB);
            fs::rename(&described, &finished)
                .and_then(|()| sync_dir(&self.dir))
                .map_err(|cause| Error::io("rename", &described, cause))?;
        }
        let work = self.dir.join(WORK);
        if work.exists() {
            fs::remove_dir_all(&work).map_err(|cause| Error::io("remove", &work, cause))?;
        }
        fs::remove_file(&finished).map_err(|cause| Error::io("remove", &finished, cause))
    }

    fn part(&self, index: usize) -> PathBuf {
        self.dir
            .join(WORK)
            .join(format!("part-{index:05}.safetensors"))
    }
}

/// The path of the first field in which two job descriptions differ.
fn first_difference(wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let mut keys = wanted.keys().chain(found.keys());
            let null = &Value::Null;
            let differs = |key: &String| {
                let [a, b] = [wanted, found].map(|object| object.get(key).unwrap_or(null));
                first_difference(a, b).map(|inner| match inner.as_str() {
                    "" => key.clone(),
                    inner => format!("{key}.{inner}"),
                })
            };
            keys.find_map(differs)
        }
        _ => (wanted != found).then(String::new),
    }
}
