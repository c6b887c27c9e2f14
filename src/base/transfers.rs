//! Transfers of blobs from and to other machines: whoever transfers notes here how far a blob is, and
//! whoever shows progress looks now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// All transfers of a process.
#[derive(Debug, Default)]
pub struct Transfers(Mutex<Vec<Weak<TransferGroup>>>);

impl Transfers {
    /// Adds the transfers of an image, which are shown for as long as the result is kept. `action` says
    /// what is done with it: `upload`.
    pub fn group(&self, action: &'static str, image: String) -> Arc<TransferGroup> {
        let group = Arc::new(TransferGroup { action, image, state: Mutex::default() });
        let mut groups = self.groups();
        groups.retain(|group| group.strong_count() > 0);
        groups.push(Arc::downgrade(&group));
        group
    }

    /// Returns the groups in which something is left to do.
    pub fn pending(&self) -> Vec<GroupStatus> {
        let groups: Vec<_> = self.groups().iter().filter_map(Weak::upgrade).collect();
        groups.iter().map(|group| group.status()).filter(|s| s.ended() < s.blobs).collect()
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Weak<TransferGroup>>> {
        // A group is added as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transfers of one image in one direction.
#[derive(Debug)]
pub struct TransferGroup {
    action: &'static str,
    image: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The transfers that have not ended, in the order in which they were added.
    current: BTreeMap<u64, Current>,
    next: u64,
    done: u64,
    done_bytes: u64,
    skipped: u64,
    moved: u64,
    begun: Option<Instant>,
}

#[derive(Debug)]
struct Current {
    name: String,
    bytes: u64,
    /// Bytes that are there; `None` before the first.
    at: Option<u64>,
}

impl TransferGroup {
    /// Adds a blob of `bytes` bytes, which waits for now.
    pub fn add(self: &Arc<Self>, name: String, bytes: u64) -> Transfer {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.current.insert(id, Current { name, bytes, at: None });
        Transfer { group: Arc::clone(self), id }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are valid at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> GroupStatus {
        let state = self.state();
        let running = state.current.iter().filter_map(|(id, current)| {
            let (name, bytes) = (current.name.clone(), current.bytes);
            Some(TransferStatus { id: *id, name, bytes, at: current.at? })
        });
        let running: Vec<_> = running.collect();
        let left: u64 = state.current.values().map(|current| current.bytes).sum();
        GroupStatus {
            action: self.action,
            image: self.image.clone(),
            blobs: state.done + state.skipped + state.current.len() as u64,
            done: state.done,
            skipped: state.skipped,
            bytes: state.done_bytes + left,
            at: state.done_bytes + running.iter().map(|running| running.at).sum::<u64>(),
            moved: state.moved,
            begun: state.begun,
            running,
        }
    }
}

/// The transfer of one blob. Dropping it before it has finished takes it out of the totals: it failed, or
/// nobody wants the blob any more.
#[derive(Debug)]
pub struct Transfer {
    group: Arc<TransferGroup>,
    id: u64,
}

impl Transfer {
    /// Says how many bytes of the blob are there: fewer than before if some have to be sent again.
    pub fn set(&self, at: u64) {
        self.update(at, true);
    }

    /// Says how many bytes another process has left.
    pub fn resume(&self, at: u64) {
        self.update(at, false);
    }

    /// Ends the transfer: the blob has arrived.
    pub fn finish(self) {
        let mut state = self.group.state();
        if let Some(current) = state.current.remove(&self.id) {
            state.done += 1;
            state.done_bytes += current.bytes;
        }
    }

    /// Ends the transfer: the blob was there, or came without being transferred.
    pub fn skip(self) {
        let mut state = self.group.state();
        if state.current.remove(&self.id).is_some() {
            state.skipped += 1;
        }
    }

    fn update(&self, at: u64, moves: bool) {
        let mut state = self.group.state();
        state.begun.get_or_insert_with(Instant::now);
        let Some(current) = state.current.get_mut(&self.id) else { return };
        let at = at.min(current.bytes);
        let before = current.at.replace(at).unwrap_or(0);
        if moves {
            state.moved += at.saturating_sub(before);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.group.state().current.remove(&self.id);
    }
}

/// How far the transfers of an image are.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// What is done with the image.
    pub action: &'static str,
    /// Its name.
    pub image: String,
    /// Number of blobs so far; more may be added.
    pub blobs: u64,
    /// Number of those that have arrived.
    pub done: u64,
    /// Number of those that need not be transferred.
    pub skipped: u64,
    /// Bytes to transfer in all.
    pub bytes: u64,
    /// Bytes that are there, at most `bytes`.
    pub at: u64,
    /// Bytes that were moved, those that were sent again included.
    pub moved: u64,
    /// When the first transfer began.
    pub begun: Option<Instant>,
    /// The blobs in transfer, in the order in which they were added.
    pub running: Vec<TransferStatus>,
}

impl GroupStatus {
    /// Returns the number of blobs that nothing is left to do for.
    pub fn ended(&self) -> u64 {
        self.done + self.skipped
    }
}

/// How far the transfer of a blob is.
#[derive(Debug, Clone)]
pub struct TransferStatus {
    /// A number that no other blob of its group has.
    pub id: u64,
    /// The blob's name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that are there, at most `bytes`.
    pub at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_sent_again_do_not_exceed_the_size() {
        let transfers = Transfers::default();
        let group = transfers.group("upload", "app".into());
        let blob = group.add("a".into(), 100);
        blob.set(80);
        blob.set(30);
        blob.set(500);
        let status = &transfers.pending()[0];
        assert_eq!((status.at, status.bytes, status.moved), (100, 100, 150));
        assert_eq!(status.running[0].at, 100);
    }

    #[test]
    fn what_is_skipped_or_given_up_is_not_among_the_bytes() {
        let transfers = Transfers::default();
        let group = transfers.group("upload", "app".into());
        let blobs = ["a", "b", "c", "d"].map(|name| group.add(name.into(), 100));
        let [a, b, c, d] = blobs;
        a.skip();
        b.set(10);
        b.finish();
        drop(c);
        let status = &transfers.pending()[0];
        assert_eq!((status.blobs, status.done, status.skipped), (3, 1, 1));
        assert_eq!((status.at, status.bytes, status.running.len()), (100, 200, 0));
        d.resume(50);
        let status = &transfers.pending()[0];
        assert_eq!((status.at, status.moved), (150, 10));
        d.finish();
        assert!(transfers.pending().is_empty(), "nothing is left to do");
    }

    #[test]
    fn a_group_ends_with_its_owner() {
        let transfers = Transfers::default();
        let group = transfers.group("upload", "app".into());
        let blob = group.add("a".into(), 1);
        drop(group);
        assert_eq!(transfers.pending().len(), 1);
        drop(blob);
        assert!(transfers.pending().is_empty());
    }
}
