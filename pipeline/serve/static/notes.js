// What a choice between two answers says, once it is made.

/** What stands under the two answers of a choice. */
export const noteOf = (said) => ({ text: verdict(said), comparison: said.comparison, answers: said.answers });

/** The choices of a conversation, as the server knows them, under the questions they are about. */
export const notesOf = (choices) => new Map(choices.map((said) => [said.question, noteOf(said)]));

export function verdict({ winner, models }) {
  const who = models.left === models.right ? `Both were ${models.left}.` : `A was ${models.left}, B was ${models.right}.`;
  return { left: `You chose A. ${who}`, right: `You chose B. ${who}`, tie: `Equally good. ${who}`, both_bad: `Both bad. ${who}` }[winner];
}
