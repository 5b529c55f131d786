//! Work queue of keys: several keys are processed concurrently, but each key by one worker at a time.
//!
//! kube's Controller does this for objects in a store. This queue is for keys that are not objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt, pin_mut};
use tokio_util::sync::CancellationToken;
use tokio_util::time::delay_queue::{DelayQueue, Key};

/// Runs `work` for each key until `shutdown`, and then waits for work in progress. `work` returns when to process the key
/// again, if ever.
pub async fn work_off<F: Future<Output = Option<Duration>>>(
    keys: impl Stream<Item = String>,
    concurrency: usize,
    work: impl Fn(Arc<str>) -> F,
    shutdown: CancellationToken,
) {
    let mut at_work = FuturesUnordered::new();
    let mut busy: HashSet<Arc<str>> = HashSet::new();
    // Keys that were queued while they were processed: they are processed again.
    let mut again: HashSet<Arc<str>> = HashSet::new();
    let mut later = DelayQueue::new();
    let mut waits: HashMap<Arc<str>, Key> = HashMap::new();
    pin_mut!(keys);
    loop {
        let has_room = at_work.len() < concurrency && !shutdown.is_cancelled();
        let key: Arc<str> = tokio::select! {
            () = shutdown.cancelled(), if at_work.is_empty() => return,
            Some((key, wait)) = at_work.next() => {
                let key: Arc<str> = key;
                busy.remove(&key);
                if again.remove(&key) {
                    key
                } else {
                    if let Some(wait) = wait {
                        waits.insert(Arc::clone(&key), later.insert(key, wait));
                    }
                    continue;
                }
            }
            Some(expired) = later.next(), if has_room => {
                let key: Arc<str> = expired.into_inner();
                waits.remove(&key);
                key
            }
            Some(key) = keys.next(), if has_room => key.into(),
        };
        if shutdown.is_cancelled() {
            continue;
        }
        if busy.contains(&key) {
            again.insert(key);
            continue;
        }
        if let Some(wait) = waits.remove(&key) {
            later.remove(&wait);
        }
        busy.insert(Arc::clone(&key));
        let work = work(Arc::clone(&key));
        at_work.push(async move { (key, work.await) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_key_is_processed_serially_and_again_if_marked_meanwhile() {
        const KEYS: [&str; 5] = ["a", "b", "a", "a", "late"];
        let log = Arc::new(Mutex::new(Vec::new()));
        // Nothing is done before all keys have been taken.
        let (gate, taken) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let marks = Arc::clone(&taken);
        let keys = futures::stream::iter(KEYS)
            .map(move |key| {
                marks.fetch_add(1, Ordering::Relaxed);
                key.to_owned()
            })
            .chain(futures::stream::pending());
        let (noted, opened, shutdown) = (Arc::clone(&log), Arc::clone(&gate), CancellationToken::new());
        let work = move |key: Arc<str>| {
            let (noted, opened) = (Arc::clone(&noted), Arc::clone(&opened));
            async move {
                noted.lock().unwrap().push(format!("+{key}"));
                drop(opened.acquire().await.unwrap());
                noted.lock().unwrap().push(format!("-{key}"));
                let is_first = noted.lock().unwrap().iter().filter(|noted| **noted == "+late").count() < 2;
                (&*key == "late" && is_first).then_some(Duration::from_millis(10))
            }
        };
        let worker = tokio::spawn(work_off(keys, 3, work, shutdown.clone()));
        while taken.load(Ordering::Relaxed) < KEYS.len() {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
        let count = |entry: &str| log.lock().unwrap().iter().filter(|noted| *noted == entry).count();
        while count("-late") < 2 || count("-a") < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        shutdown.cancel();
        worker.await.unwrap();
        assert_eq!(count("+a"), 2, "twice, however often it was marked meanwhile: {log:?}");
        assert_eq!(count("+b"), 1);
        assert_eq!(count("+late"), 2, "it has asked for that: {log:?}");
        let log = log.lock().unwrap();
        let first_end = log.iter().position(|noted| noted == "-a").unwrap();
        assert!(log.iter().skip(1).take(first_end - 1).all(|noted| noted != "+a"), "{log:?}");
    }
}
