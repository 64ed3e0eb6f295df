//! "Commit SMI policies, edit one MeshConfig, and watch a rolling upgrade that drops no request."

use e2e::story::Story;

#[test]
fn the_story_of_the_demo_holds() {
    let mut story = Story::new(crate::cluster()).unwrap();
    story.tell().unwrap();
    println!("{}", story.summary.table());
    assert_eq!(story.summary.broken, Vec::<String>::new());
}
