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

/// Runs `work` for each key until `shutdown`, and then waits for work in progress. `work` returns the time after which
/// to process the key again, if any.
pub async fn process_keys<F: Future<Output = Option<Duration>>>(
    keys: impl Stream<Item = String>,
    concurrency: usize,
    work: impl Fn(Arc<str>) -> F,
    shutdown: CancellationToken,
) {
    let mut in_progress = FuturesUnordered::new();
    let mut busy: HashSet<Arc<str>> = HashSet::new();
    // Keys that were queued again while they were being processed. They are processed once more afterwards.
    let mut again: HashSet<Arc<str>> = HashSet::new();
    let mut delayed = DelayQueue::new();
    let mut delay_keys: HashMap<Arc<str>, Key> = HashMap::new();
    pin_mut!(keys);
    loop {
        let has_capacity = in_progress.len() < concurrency && !shutdown.is_cancelled();
        let key: Arc<str> = tokio::select! {
            () = shutdown.cancelled(), if in_progress.is_empty() => return,
            Some((key, wait)) = in_progress.next() => {
                let key: Arc<str> = key;
                busy.remove(&key);
                if again.remove(&key) {
                    key
                } else {
                    if let Some(wait) = wait {
                        delay_keys.insert(Arc::clone(&key), delayed.insert(key, wait));
                    }
                    continue;
                }
            }
            Some(expired) = delayed.next(), if has_capacity => {
                let key: Arc<str> = expired.into_inner();
                delay_keys.remove(&key);
                key
            }
            Some(key) = keys.next(), if has_capacity => key.into(),
        };
        if shutdown.is_cancelled() {
            continue;
        }
        if busy.contains(&key) {
            again.insert(key);
            continue;
        }
        if let Some(wait) = delay_keys.remove(&key) {
            delayed.remove(&wait);
        }
        busy.insert(Arc::clone(&key));
        let work = work(Arc::clone(&key));
        in_progress.push(async move { (key, work.await) });
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
        // No key is completed before all keys have been taken from the stream.
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
        let worker = tokio::spawn(process_keys(keys, 3, work, shutdown.clone()));
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
        assert_eq!(count("+a"), 2, "twice, no matter how often it was marked in between: {log:?}");
        assert_eq!(count("+b"), 1);
        assert_eq!(count("+late"), 2, "its first run requested a second one: {log:?}");
        let log = log.lock().unwrap();
        let first_end = log.iter().position(|noted| noted == "-a").unwrap();
        assert!(log.iter().skip(1).take(first_end - 1).all(|noted| noted != "+a"), "{log:?}");
    }
}
