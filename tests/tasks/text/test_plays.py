from tff_fedsynth.tasks.text import plays


def test_speeches_are_without_directions():
  markdown = (
    '# Title\n\n**ANNE**  \nHear me,  \n_\\[Aside]_ my lord.\n\n'
    '_Enter BOB_\n\nAgain.\n\n**BOB**\n\nNo.\n\n## ACT II\n\n**ANNE**\n\nYes!\n'
  )
  assert list(plays._speeches(markdown)) == [
    ('ANNE', 'Hear me,\nmy lord.\nAgain.'),
    ('BOB', 'No.'),
    ('ANNE', 'Yes!'),
  ]
